"""Start of the app: Streamlit's server with the options that galmeasure wants."""

from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from galmeasure.app.uploads import MAX_UPLOAD_MB

__all__ = ["is_loopback", "run_app", "server_options"]

_HOST, _PORT = "127.0.0.1", 8501
_LARGEST_PORT = 65535


def run_app(
    host: str = _HOST, port: int = _PORT, *, headless: bool = False, max_upload_mb: int = MAX_UPLOAD_MB
) -> None:
    """Serve the app until it is stopped.

    Parameters
    ----------
    host : str, optional
        Address at which it listens; by default the loopback address, which only this machine reaches.
    port : int, optional
        Port at which it listens.
    headless : bool, optional
        Whether no browser is opened. Default False.
    max_upload_mb : int, optional
        Largest upload in megabytes.

    Raises
    ------
    ImportError
        If Streamlit or matplotlib is not installed.
    ValueError
        If an argument is out of its range.
    """
    options = server_options(host, port, headless=headless, max_upload_mb=max_upload_mb)
    for name in ("streamlit", "matplotlib"):
        if find_spec(name) is None:
            msg = f"the app needs {name}: pip install 'galmeasure[app]'"
            raise ImportError(msg)
    _warm_up()
    from streamlit.web.cli import main

    script = Path(__file__).with_name("main.py")
    main(["run", str(script), *(f"--{key}={value}" for key, value in options.items())], standalone_mode=False)


def server_options(
    host: str = _HOST, port: int = _PORT, *, headless: bool = False, max_upload_mb: int = MAX_UPLOAD_MB
) -> dict[str, str]:
    """List the options of Streamlit's server.

    Parameters
    ----------
    host, port, headless, max_upload_mb
        Same arguments as in `run_app`.

    Returns
    -------
    dict of str to str
        Values by the names of Streamlit's configuration.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from galmeasure.app.launch import server_options
    >>> server_options()["server.address"], server_options()["browser.gatherUsageStats"]
    ('127.0.0.1', 'false')
    """
    if not host or any(character.isspace() for character in host):
        msg = f"host must be an address or the name of a machine, not {host!r}"
        raise ValueError(msg)
    if not 1 <= port <= _LARGEST_PORT:
        msg = f"port must lie between 1 and {_LARGEST_PORT}, not {port}"
        raise ValueError(msg)
    if not 1 <= max_upload_mb <= 10_000:
        msg = f"max_upload_mb must lie between 1 and 10000, not {max_upload_mb}"
        raise ValueError(msg)
    return {
        "server.address": host,
        "server.port": str(port),
        "server.headless": str(headless).lower(),
        "server.maxUploadSize": str(max_upload_mb),
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
    }


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    Parameters
    ----------
    host : str
        Address or name of a machine.

    Returns
    -------
    bool
        True for localhost and loopback addresses.

    Examples
    --------
    >>> from galmeasure.app.launch import is_loopback
    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _warm_up() -> None:
    """Load what the first page needs, so that its first visitor does not wait."""
    from galmeasure.app.drawing import draw_galaxy
    from galmeasure.app.estimators import list_estimators, make_estimator
    from galmeasure.app.measuring import measure_galaxy
    from galmeasure.app.sliders import SLIDERS, GalaxySettings

    drawn = draw_galaxy(GalaxySettings(**{slider.name: slider.default for slider in SLIDERS}))
    measure_galaxy(drawn, make_estimator(list_estimators()[0].label))
