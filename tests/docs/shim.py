"""What stands for `mdap`, `python`, `pytest` and `sqlite3` on a reader's PATH: it asks the fork server.

Starting Python and importing SciPy for each of some hundred commands would take minutes. Signals go on to
the real process, and if this one is killed, so is that.
"""

import os
import signal
import socket
import sys


def main() -> None:
    name = os.path.basename(sys.argv[0])
    if name == "python" and not (sys.argv[1:] and sys.argv[1].endswith(".py")):
        os.execv(os.environ["DOCS_PYTHON"], [os.environ["DOCS_PYTHON"], *sys.argv[1:]])
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ["DOCS_SERVER"])
    words = [name, *sys.argv[1:]]
    said = "\0".join([os.getcwd(), str(len(words)), *words, *(f"{k}={v}" for k, v in os.environ.items())])
    message = said.encode()
    socket.send_fds(server, [len(message).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(message)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.send(bytes([number])))
    code = server.recv(1)
    os._exit(code[0] if code else 137)


main()
