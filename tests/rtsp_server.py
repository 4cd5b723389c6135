"""A camera on loopback: an RTSP server (RFC 2326) that sends H.264 in RTP packets over the same connection."""

import itertools
import re
import socketserver
import struct
import threading

import av
import numpy as np


_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=control:video\r\n"
)
_RATE = 10


def encode(pictures: list[np.ndarray]) -> list[list[bytes]]:
    """Of each picture, the units of its H.264 without start codes; small enough for an RTP packet each."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.framerate = "yuv420p", _RATE
    encoder.options = {"tune": "zerolatency", "x264-params": "keyint=5:repeat-headers=1:slice-max-size=1000"}
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
    packets = [bytes(packet) for frame in (*frames, None) for packet in encoder.encode(frame)]
    return [[unit for unit in re.split(b"\0?\0\0\1", packet) if unit] for packet in packets]


class Camera(socketserver.ThreadingTCPServer):
    """
    A running camera, as a context manager. It closes each connection behind its last picture.

    Args:
        pictures: uint8 `(height, width, 3)` each.

    Attributes:
        address: Of the stream.
        requests: The methods asked for so far, of all connections.
        num_silent: Connections yet to come that are given no answer.
    """

    daemon_threads = True

    def __init__(self, pictures: list[np.ndarray]):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.frames, self.requests, self.num_silent = encode(pictures), [], 0
        self.address = f"rtsp://127.0.0.1:{self.server_address[1]}/live"

    def __enter__(self) -> "Camera":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()


class _Connection(socketserver.StreamRequestHandler):
    server: Camera

    def handle(self):
        is_silent, self.server.num_silent = self.server.num_silent > 0, self.server.num_silent - 1
        while request := "".join(iter(lambda: self.rfile.readline().decode().replace("\r\n", "\n"), "\n")):
            method = request.split()[0]
            self.server.requests.append(method)
            if not is_silent:
                self._answer(method, request)
            if method == "PLAY" and not is_silent:
                return self._send()

    def _answer(self, method: str, request: str):
        body, status, headers = "", "200 OK", {"CSeq": re.search(r"CSeq: *(\d+)", request)[1], "Session": "1"}
        if method == "OPTIONS":
            headers["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY"
        elif method == "DESCRIBE":
            body, headers["Content-Type"] = _SDP, "application/sdp"
        elif method == "SETUP" and "TCP" in request:
            headers["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
        elif method == "SETUP":
            status = "461 Unsupported Transport"
        headers["Content-Length"] = str(len(body))
        lines = [f"RTSP/1.0 {status}", *(f"{name}: {value}" for name, value in headers.items()), "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _send(self):
        numbers = itertools.count()
        for time, units in enumerate(self.server.frames):
            for unit in units:
                is_last = unit is units[-1]
                header = struct.pack(">BBHII", 0x80, 96 | is_last << 7, next(numbers), time * 90_000 // _RATE, 0x5EED)
                self.wfile.write(struct.pack(">BBH", ord("$"), 0, len(header + unit)) + header + unit)
