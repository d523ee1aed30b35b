"""Recipes of the documentation with other programs: a table goes to those that listen to SAMP."""

import time

import pytest
from astropy.table import QTable

from galmeasure import LSQSersicFitter, read_cutouts

DEMO = "examples/demo_catalog.fits"


@pytest.fixture
def listener():
    """Program that listens to a SAMP hub of its own, and the messages that it got."""
    samp = pytest.importorskip("pyvo.samp", reason="pyvo is not installed")
    samp.conf.use_internet = False
    hub = samp.SAMPHubServer(web_profile=False)
    hub.start()
    client, messages = samp.SAMPIntegratedClient(name="listener"), []
    client.connect()
    client.bind_receive_notification(
        "table.load.votable", lambda key, sender, mtype, params, extra: messages.append(params)
    )
    yield messages
    client.disconnect()
    hub.stop()


def test_a_table_goes_to_programs_that_listen(listener, tmp_path, request):
    """The recipe of interoperability.rst: written as VOTable, announced, read by the listener with its units."""
    from pyvo.samp import SAMPIntegratedClient

    table = LSQSersicFitter().fit(read_cutouts(request.config.rootpath / DEMO)[:3])
    path = tmp_path / "shapes.votable"
    table.write(path, format="galmeasure")
    client = SAMPIntegratedClient(name="galmeasure")
    client.connect()
    client.notify_all({"samp.mtype": "table.load.votable", "samp.params": {"url": path.as_uri(), "name": "shapes"}})
    for _ in range(100):
        if listener:
            break
        time.sleep(0.1)
    client.disconnect()
    read = QTable.read(listener[0]["url"].removeprefix("file://"), format="votable")
    assert len(read) == 3
    assert read["r_eff_fit"].unit == table["r_eff_fit"].unit
