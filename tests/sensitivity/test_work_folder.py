"""Two workers that need the same sensitivity at the same moment measure it once."""

import threading
import time

from paraknow_core.context import Silent
from paraknow_core.sensitivity.work_folder import own_folder


def test_of_two_that_make_the_same_store_one_waits_and_finds_it_done(tmp_path):
    store, waited, measured = tmp_path / "store", [], []

    class Told(Silent):
        def progress(self, done, total, message=""):
            waited.append(message)

    def make():
        with own_folder(store, Told()) as work:
            if not store.exists():
                measured.append(work)
                time.sleep(0.2)
                work.rename(store)

    makers = [threading.Thread(target=make) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(measured) == 1
    assert "another process is measuring this sensitivity; waiting for it" in waited
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
