"""Sends what a stranger might to the DmaBufInbox at argv[1]. Each further argument is one message: the kinds of its
descriptors, joined by "+"; "+200pipe" is a pipe two hundred times."""

import array
import os
import re
import socket
import sys

MAKERS = {
    'file': lambda: os.open('/dev/null', os.O_RDONLY),
    'pipe': lambda: os.pipe()[0],
    'socket': lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
    'memfd': lambda: sized(os.memfd_create('stranger', os.MFD_ALLOW_SEALING)),
    'posing': lambda: sized(os.memfd_create('rkllm-simulated-npu')),
}


def sized(fd):
    os.ftruncate(fd, 8192)
    return fd


for message in sys.argv[2:]:
    fds = []
    for part in message.split('+'):
        count, kind = re.fullmatch(r'(\d*)(\w*)', part).groups()
        if kind in MAKERS:
            fds += [MAKERS[kind]()] * int(count or 1)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect(sys.argv[1])
    payload = b'x' * 100_000 if message == 'long+memfd' else b'stranger'
    s.sendmsg([payload], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else [])
    s.close()
