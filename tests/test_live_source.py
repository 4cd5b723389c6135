"""Sources at their own pace: a clock that goes on, and frames that are dropped."""

import pytest
from test_whole_video import make_pictures

from vtn_hf.inference.live_source import Clock, LiveSource


def test_time_goes_on_where_timestamps_do_not():
    clock = Clock(rate=10)
    stamps = [5.0, 5.1, None, 5.3, 0.0, 0.1, 1e19, 1e19, 0.1, 60.1]
    times = [5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.6, 5.7, 65.7]
    assert [clock.read(stamp) for stamp in stamps] == pytest.approx(times)
    assert Clock(rate=10).read(1.7e9) == 0.1


def test_stream_drops_what_it_is_too_slow_for():
    source = LiveSource("/no/such/file", size=2)
    source._thread.join()
    pictures = make_pictures(5)
    for number, picture in enumerate(pictures):
        source._put(picture, number / 10)
    assert (source.num_read, source.num_dropped) == (5, 3)
    assert [source.read(0)[1], source.read(0)[1], source.read(0)] == [0.3, 0.4, None]
    assert source.error is not None
