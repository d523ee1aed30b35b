"""Random changes of the content of files, for ``fuzz.py``: everything follows from the random number generator."""

import gzip
import hashlib
import json
import re

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from galmeasure.utils.digests import DIGEST, companion_card, json_digest
from galmeasure.weights.cards import card_digest

BLOCK, CARD = 2880, 80

NUMBERS = (
    "0", "-1", "1", "2", "3", "7", "8", "16", "-32", "-64", "64", "255", "999", "1000", "65536", "100000000",
    "2147483648", "99999999999999999999", "-9223372036854775808", "0.5", "-0.0", "1e-300", "1E400", "-1E30", "NaN",
)  # fmt: skip
WORDS = (
    "T", "F", "''", "' '", "'high'", "'2.5 e-/ADU'", "'-999'", "'electron/s'", "'parsnip'", "'nJy'", "'(24,...)'",
    "'(9999,9999)'", "'(0)'", "'(1,2)'", "'1PE(9)'", "'999999999E'", "'0E'", "'1QD(3)'", "'PJ()'", "'3A'", "'M'",
    "'16X'", "'L'", "'K'", "'1C'", "'P'", "'RA---TPV'", "'RA---TAN-SIP'", "'GLON-CAR'", "'FREQ'", "'LOOKUP'",
    "'SCI'", "'PSF'", "'ERR'", "'DQ'", "'IVAR'", "'COMPRESSED_IMAGE'", "'BINTABLE'", "'IMAGE   '", "'TABLE   '",
    "'FOREIGN'", "'RICE_1'", "'GZIP_1'", "'PLIO_1'", "'HCOMPRESS_1'", "'NOCOMPRESS'", "'cutout'", "'x'", "'psf'",
    "(1.0, 2.0)", "junk", "",
)  # fmt: skip
KEYWORDS = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "GROUPS",
    "TFIELDS", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2", "TDIM1", "TDIM2", "TNULL1", "TSCAL1", "TZERO1", "TUNIT1",
    "TUNIT2", "THEAP", "ZIMAGE", "ZTABLE", "ZNAXIS", "ZNAXIS1", "ZTILE1", "ZTILE2", "ZBITPIX", "ZCMPTYPE",
    "ZVAL1", "ZNAME1", "ZQUANTIZ", "ZBLANK", "ZSCALE", "ZZERO", "BSCALE", "BZERO", "BLANK", "BUNIT", "GAIN",
    "EXPTIME", "PIXSCALE", "MAGZERO", "EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT", "CTYPE1", "CTYPE2", "CUNIT1",
    "CRVAL1", "CRPIX1", "CDELT1", "CD1_1", "CD1_2", "PC1_1", "PC2_2", "LONPOLE", "EQUINOX", "RADESYS", "WCSAXES",
    "A_ORDER", "A_1_1", "B_ORDER", "AP_ORDER", "CPDIS1", "DP1", "D2IMDIS1", "PV1_1", "PV2_1", "POLNAXIS",
    "POLNGRP", "POLDEG1", "POLGRP1", "POLNAME1", "POLZERO1", "POLSCAL1", "PSF_SAMP", "PSFNAXIS", "PSFAXIS1",
    "OVERSAMP", "DET_SAMP", "DET_YX0", "NXPSFS", "OVSAMP", "PIXELSCL", "MP_BAD", "TELESCOP", "INSTRUME",
    "DATE-OBS", "MJD-OBS", "CONTINUE", "HIERARCH", "END", "COMMENT", "CHECKSUM", "DATASUM",
)  # fmt: skip
ATTRIBUTES = (
    b"", b"*", b"1000000000", b"8*", b"1000000000x1000000000", b"2x*", b"x", b"2x", b"double", b"float", b"int",
    b"long", b"short", b"unsignedByte", b"char", b"unicodeChar", b"floatComplex", b"bit", b"boolean", b"deg",
    b"rad", b"parsnip", b"id", b"x", b"ra", b"dec", b"1.1", b"1.5", b"base64", b"gzip", b"hex", b"utf-16",
    b"pos.eq.ra;meta.main", b"file:///etc/hostname",
)  # fmt: skip
"""Values of attributes of VOTables."""
TOKENS = (
    b"", b"0", b"-1", b"1e400", b"nan", b"inf", b"1000000000", b"99999999999999999999999", b"\x00", b"\xff\xfe",
    b'"', b"'", b",", b"\n", b"<", b">", b"&", b"&lt;", b"]]>", b"*", b"1000000000x1000000000", b"double",
    b"char", b"unicodeChar", b"floatComplex", b"bit", b"boolean", b"deg", b"parsnip", b"int64", b"object",
    b"string", b"#", b"# ", b"%ECSV 1.0", b"!!python/object/apply:os.system", b"&a [*a,*a]", b"{}", b"[]",
    b"null", b"TABLEDATA", b"BINARY", b"BINARY2", b"FITS", b'href="file:///etc/hostname"',
    b'arraysize="1000000000"', b'precision="99999999"', b'ref="x"', b'ID="x"', b"id", b"x", b"ra",
    b"subtype: json", b"serialized_columns", b"__class__: astropy.time.core.Time",
)  # fmt: skip


def pick(rng, values):
    """One of some values."""
    return values[int(rng.integers(len(values)))]


def flip(data, rng):
    """Other bits in a few places."""
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data


def overwrite(data, rng):
    """A stretch of zeros, ones, or random bytes."""
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 400))
    stop = min(start + size, len(data))
    fill = (bytes(stop - start), b"\xff" * (stop - start), rng.bytes(stop - start))
    data[start:stop] = pick(rng, fill)
    return data


def cut(data, rng):
    """The file ends early."""
    return data[: int(rng.integers(len(data)))]


def remove(data, rng):
    """A stretch is missing."""
    start = int(rng.integers(len(data)))
    del data[start : start + int(rng.integers(1, 4000))]
    return data


def repeat(data, rng):
    """A stretch comes twice, or at another place."""
    start, place = int(rng.integers(len(data))), int(rng.integers(len(data)))
    data[place:place] = data[start : start + int(rng.integers(1, 4000))]
    return data


def swap_blocks(data, rng):
    """Two blocks change places."""
    first, second = sorted(int(n) * BLOCK for n in rng.integers(0, max(1, len(data) // BLOCK), 2))
    one, other = data[first : first + BLOCK], data[second : second + BLOCK]
    if first != second:
        data[second : second + BLOCK], data[first : first + BLOCK] = one, other
    return data


def huge_number(data, rng):
    """Four or eight bytes become a large count, of either byte order."""
    size = pick(rng, (4, 8))
    number = pick(rng, (2**31 - 1, 2**32 - 1, 10**8, 2**30, 2**24))
    start = int(rng.integers(max(1, len(data) - size)))
    data[start : start + size] = number.to_bytes(size, pick(rng, ("little", "big")))
    return data


def cards_of(data):
    """Places of the header cards of a FITS file."""
    return [
        place
        for place in range(0, len(data) - CARD, CARD)
        if re.match(rb"[A-Z][A-Z0-9_-]* *= ", data[place : place + 10])
    ]


def change_value(data, rng):
    """Cards with other values."""
    cards = cards_of(data)
    for _ in range(int(rng.integers(1, 4)) if cards else 0):
        place = pick(rng, cards)
        value = pick(rng, NUMBERS if rng.random() < 0.6 else WORDS)
        data[place + 10 : place + CARD] = f"{value:>20}".ljust(CARD - 10).encode()
    return data


def change_keyword(data, rng):
    """Cards with other keywords, and mostly other values."""
    cards = cards_of(data)
    for _ in range(int(rng.integers(1, 4)) if cards else 0):
        place, value = pick(rng, cards), pick(rng, NUMBERS + WORDS)
        data[place : place + 10] = f"{pick(rng, KEYWORDS):8}= ".encode()
        if rng.random() < 0.8:
            data[place + 10 : place + CARD] = f"{value:>20}".ljust(CARD - 10).encode()
    return data


def swap_cards(data, rng):
    """Two cards change places, or one stands twice."""
    cards = cards_of(data)
    if cards:
        one, other = pick(rng, cards), pick(rng, cards)
        kept = bytes(data[other : other + CARD])
        data[other : other + CARD] = data[one : one + CARD]
        if rng.random() < 0.5:
            data[one : one + CARD] = kept
    return data


def change_text(data, rng):
    """Words of a text become others."""
    for _ in range(int(rng.integers(1, 4))):
        words = list(re.finditer(rb"[\w.+-]+|\"[^\"\n]*\"|\S", bytes(data)))
        if words:
            word = pick(rng, words)
            data[word.start() : word.end()] = pick(rng, TOKENS)
    return data


def change_attribute(data, rng):
    """Attributes of an XML file with other values."""
    for _ in range(int(rng.integers(1, 4))):
        values = list(re.finditer(rb'="([^"<>]*)"', bytes(data)))
        if values:
            value = pick(rng, values)
            data[value.start(1) : value.end(1)] = pick(rng, ATTRIBUTES + tuple(n.encode() for n in NUMBERS))
    return data


def change_number(data, rng):
    """Numbers of a text become others, or words."""
    words = (*NUMBERS, "", "x", "--", "1h2m3s", "12:30:00", "True")
    for _ in range(int(rng.integers(1, 4))):
        numbers = list(re.finditer(rb"(?<=[\s,>])[\d.e+-]+(?=[\s,<])", bytes(data)))
        if numbers:
            number = pick(rng, numbers)
            data[number.start() : number.end()] = pick(rng, words).encode()
    return data


def change_lines(data, rng):
    """Lines of a text are missing, come twice, or change places."""
    lines = bytes(data).split(b"\n")
    one, other = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = int(rng.integers(3))
    if kind == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 1:
        lines.insert(other, lines[one])
    else:
        del lines[one]
    return bytearray(b"\n".join(lines))


def change_json(value, rng):
    """A plain JSON value with another value at one place."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = pick(rng, sorted(value))
        if rng.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(len(value)))
        return [*value[:place], change_json(value[place], rng), *value[place + 1 :]]
    numbers = (0, -1, 1, 3, 8192, 10**9, 10**400, 0.5, -1e308, float("nan"), float("inf"))
    others = (None, True, False, "", "x", "9" * 5000, [], {}, [1], [[1]] * 3, {"a": 1}, [0] * 1000)
    return pick(rng, numbers + others)


def change_calibration(data, rng):
    """A JSON file with other values, most often with a digest that fits them."""
    content = change_json(json.loads(data), rng)
    if isinstance(content, dict) and rng.random() < 0.8:
        content.pop(DIGEST, None)
        if rng.random() < 0.7:
            content = _sealed(lambda: {**content, DIGEST: json_digest(content)}, content)
    return bytearray(json.dumps(content).encode())


def change_header(data, rng):
    """The header of a file of tensors with other values, its length right."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(change_json(json.loads(data[8 : 8 + length]), rng)).encode()
    header += b" " * (-len(header) % 8)
    return bytearray(len(header).to_bytes(8, "little") + header + data[8 + length :])


def change_tensors(data, rng):
    """A file of tensors with another card or other tensors, most often with digests that fit them."""
    try:
        tensors = load(bytes(data))
    except SafetensorError:
        return data
    length = int.from_bytes(data[:8], "little")
    card = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["card"])
    if rng.random() < 0.6:
        part = "arguments" if "arguments" in card and rng.random() < 0.5 else None
        card = change_json(card, rng) if part is None else {**card, part: change_json(card[part], rng)}
    else:
        _change_tensor(tensors, rng)
    if not isinstance(card, dict):
        return bytearray(save(tensors, {"card": json.dumps(card)}))
    if "tensors_sha256" in card:
        content = save(tensors)
        card["tensors_sha256"] = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
        card.pop("card_sha256", None)
        card = _sealed(lambda: {**card, "card_sha256": card_digest(card)}, card)
    elif rng.random() < 0.9:
        card.pop(DIGEST, None)
        card = _sealed(lambda: companion_card(card, tensors), card)
    return bytearray(save(tensors, {"card": json.dumps(card, sort_keys=True)}))


def _sealed(seal, card):
    """Card with its digest, or without where it has none."""
    try:
        return seal()
    except (ValueError, TypeError, OverflowError):
        return card


def _change_tensor(tensors, rng):
    """One tensor is missing, has other numbers, another type or another shape."""
    name = pick(rng, sorted(tensors))
    tensor, kind = tensors[name], int(rng.integers(5))
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name] = tensor.double() * pick(rng, (float("nan"), float("inf"), -1.0, 0.0, 1e30))
    elif kind == 2:
        tensors[name] = tensor.flatten()[: int(rng.integers(tensor.numel() + 1))].contiguous()
    elif kind == 3:
        tensors[name] = torch.full_like(tensor, pick(rng, (0, 1, 100)))
    else:
        tensors[pick(rng, sorted(tensors))] = tensor.clone()


BYTES = (flip, flip, overwrite, cut, remove, repeat, huge_number)
MUTATIONS = {
    "fits": (change_value,) * 6 + (change_keyword,) * 4 + (swap_cards, swap_blocks, swap_blocks, *BYTES),
    "xml": (change_attribute,) * 12 + (change_number,) * 4 + (change_text,) * 3 + (change_lines,) * 2 + BYTES,
    "text": (change_number,) * 8 + (change_text,) * 6 + (change_lines,) * 3 + BYTES,
    "bytes": BYTES,
    "json": (change_calibration,) * 10 + (change_text,) * 3 + BYTES,
    "tensors": (change_tensors,) * 8 + (change_header,) * 4 + BYTES,
}
"""Changes by the kind of a file; those that stand here more than once come more often."""


def mutate(content, kind, rng):
    """Other content, and the names of the changes.

    Parameters
    ----------
    content : bytes
        Content of a sound file.
    kind : str
        A key of MUTATIONS.
    rng : numpy.random.Generator
        Source of everything that is random.

    Returns
    -------
    content : bytes
        Content of the damaged file.
    names : str
        What was changed, in order.
    """
    packed = content[:2] == b"\x1f\x8b" and rng.random() < 0.7
    data = bytearray(gzip.decompress(content) if packed else content)
    names = []
    for _ in range(1 + (rng.random() < 0.3 and kind in ("fits", "text", "xml"))):
        change = pick(rng, MUTATIONS[kind])
        data = change(data, rng) if data else data
        names.append(change.__name__)
    return gzip.compress(bytes(data), 1, mtime=0) if packed else bytes(data), " + ".join(names)
