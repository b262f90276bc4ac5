"""Bytes of same-node connections are handed from socket to socket: who may, what decides, and how they leave."""
