"""Files that mean harm: they name other files and addresses, or claim more than they hold."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import av
import numpy as np


_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_FTYP = b"\0\0\0\x14ftypisom\0\0\2\0isom"


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return numbers(8 + len(body)) + kind + body


def full_box(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, numbers(flags), *parts)


def mp4(samples: int = 1, size: int = 1, edits: bytes = b"", mvex: bytes = b"", user: bytes = b"") -> bytes:
    """An mp4 of Motion JPEG whose tables claim so many samples of a size."""
    entry = box(b"jpeg", bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", 64, 48) + bytes(50))
    table = (
        full_box(b"stsd", numbers(1), entry),
        full_box(b"stts", numbers(1, samples, 1)),
        full_box(b"stsc", numbers(1, 1, samples, 1)),
        full_box(b"stsz", numbers(size, samples)),
        full_box(b"stco", numbers(1, 40)),
    )
    media = box(
        b"mdia",
        full_box(b"mdhd", numbers(0, 0, 1000, 1000) + b"\x55\xc4\0\0"),
        full_box(b"hdlr", numbers(0) + b"vide" + bytes(13)),
        box(
            b"minf",
            full_box(b"vmhd", bytes(8), flags=1),
            box(b"dinf", full_box(b"dref", numbers(1), full_box(b"url ", b"http://127.0.0.1:9/other.mp4\0"))),
            box(b"stbl", *table),
        ),
    )
    track = full_box(b"tkhd", numbers(0, 0, 1, 0, 1000), bytes(16), _MATRIX, numbers(64 << 16, 48 << 16), flags=7)
    movie = full_box(b"mvhd", numbers(0, 0, 1000, 1000, 0x10000), b"\1\0", bytes(10), _MATRIX, bytes(24), numbers(2))
    return _FTYP + box(b"mdat", bytes(2000)) + box(b"moov", movie, box(b"trak", track, edits, media), mvex, user)


def fragment(num_samples: int, num_runs: int) -> bytes:
    mvex = box(b"mvex", full_box(b"trex", numbers(1, 1, 1, 1, 0)))
    header = full_box(b"tfhd", numbers(1, 512, 1, 0x10000), flags=0x20038)
    runs = full_box(b"trun", numbers(num_samples)) * num_runs
    moof = box(b"moof", full_box(b"mfhd", numbers(1)), box(b"traf", header, full_box(b"tfdt", numbers(0)), runs))
    return mp4(0, mvex=mvex) + moof + box(b"mdat", bytes(2000))


def tags_of_mp4(count: int) -> bytes:
    items = (
        box(b"----", full_box(b"mean", b"x"), full_box(b"name", b"key%07d" % i), box(b"data", numbers(1, 0), b"v"))
        for i in range(count)
    )
    handler = full_box(b"hdlr", numbers(0) + b"mdir" + bytes(13))
    return mp4(user=box(b"udta", full_box(b"meta", handler, box(b"ilst", *items))))


def short_video(container_format: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for level in range(5):
            picture = np.full((48, 64, 3), 40 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def tags_of_matroska(count: int) -> bytes:
    def element(identifier: bytes, body: bytes) -> bytes:
        return identifier + b"\1" + len(body).to_bytes(7, "big") + body

    data = short_video("matroska")
    segment, cluster = data.index(b"\x18S\x80g"), data.index(b"\x1fC\xb6u")
    tags = (
        element(b"\x67\xc8", element(b"\x45\xa3", b"key%07d" % i) + element(b"\x44\x87", b"v")) for i in range(count)
    )
    tags = element(b"\x12\x54\xc3\x67", element(b"\x73\x73", element(b"\x63\xc0", b"") + b"".join(tags)))
    return data[: segment + 4] + b"\1" + b"\xff" * 7 + data[segment + 12 : cluster] + tags + data[cluster:]


def tags_of_ogg(count: int) -> bytes:
    """VP8 in Ogg; the muxer writes the metadata as comments."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata.update({f"key{i:07}": "v" for i in range(count)})
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def tags_of_avi(count: int) -> bytes:
    data = short_video("avi")
    letters = itertools.islice(itertools.product(range(65, 123), repeat=4), count)
    info = b"INFO" + b"".join(bytes(name) + b"\2\0\0\0v\0" for name in letters)
    place = data.index(b"movi") - 8
    return data[:place] + b"LIST" + struct.pack("<I", len(info)) + info + data[place:]


def png(width: int, height: int, num_texts: int = 0) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return numbers(len(body)) + kind + body + numbers(zlib.crc32(kind + body))

    texts = b"".join(chunk(b"tEXt", b"key%07d\0v" % i) for i in range(num_texts))
    pixels = zlib.compress(bytes(min(10**6, (1 + 3 * width) * height)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + texts + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif(width: int, height: int, num_frames: int) -> bytes:
    """A canvas of which each frame changes one pixel."""
    frame = b"\x21\xf9\x04\0\x01\0\0\0\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2\x44\1\0"
    header = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    return header + frame * num_frames + b";"


def make_hostile_videos(folder: Path, port: int) -> dict[str, bytes]:
    """
    Args:
        folder: Where `secret.mp4` lies, a good video that none of the files may show.
        port: Of 127.0.0.1, to which none may speak.

    Returns:
        Contents by file name, each of which is to end as an error.
    """
    url, neighbour = f"http://127.0.0.1:{port}/clip.ts", (folder / "secret.mp4").as_uri()
    extinf = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    description = (
        f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 96\r\n"
    )
    description += "a=rtpmap:96 H264/90000\r\n"
    texts = {
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n",
        "segments.m3u8": extinf.format(url),
        "neighbour.m3u8": extinf.format(neighbour),
        "relative.m3u8": extinf.format("secret.mp4"),
        "key.m3u8": extinf.format(url).replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF'),
        "playlist.mp4": extinf.format(url),
        "session.mp4": description,
        "session.sdp": description,
        "list.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "list_url.mp4": f"ffconcat version 1.0\nfile {url}\n",
        "itself.mp4": "ffconcat version 1.0\nfile itself.mp4\n",
        "manifest.mpd": f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
        "secret.idx": "# VobSub index file, v7\nsize: 64x48\n",
    }
    edits = box(b"edts", full_box(b"elst", numbers(3000), numbers(1000, 0, 0x10000) * 3000))
    return {name: text.encode() for name, text in texts.items()} | {
        "index.mp4": mp4(88_000_000),
        "fragment.mp4": fragment(88_000_000, 1),
        "fragments.mp4": fragment(1_000_000, 50),
        "edits.mp4": mp4(1000, edits=edits),
        "nested.mp4": _FTYP + b"".join(box(b"moov", bytes(8 * i))[:8] for i in range(2000, 0, -1)),
        "tags.mp4": tags_of_mp4(50_000),
        "tags.mkv": tags_of_matroska(50_000),
        "tags.ogv": tags_of_ogg(8_000),
        "texts.png": png(64, 48, 50_000),
        "huge.png": png(60_000, 60_000),
        "canvas.gif": gif(8000, 8000, 250),
        "%03d.png": png(64, 48)[:60],
        "empty.mp4": b"",
    }
