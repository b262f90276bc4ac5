"""Answers every TCP connection with its own address, on each address given, until killed."""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()
for address in sys.argv[1:]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 8080))
    listener.listen(1024)
    selector.register(listener, selectors.EVENT_READ, address.encode())
print("listening", flush=True)
while True:
    for key, _ in selector.select():
        assert isinstance(key.fileobj, socket.socket)
        connection, _ = key.fileobj.accept()
        connection.sendall(key.data)
        connection.close()
