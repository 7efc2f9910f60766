"""Answers lines with "pong": a thread for each connection, which sleeps in poll between them."""

import select
import socket
import threading


def serve(connection):
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        if not poll.poll(300):
            continue
        request = connection.recv(4096)
        if not request:
            return
        connection.sendall(b"pong\n" * request.count(b"\n"))


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
print("ready", listener.getsockname()[1], flush=True)
# In a thread that is told apart from those that are patched: it sleeps in accept.
accept(listener)
