"""What gunicorn serves: who answers, since when, and how often it has."""

import os

LOADED_BY = os.getpid()
TOKEN = os.urandom(8).hex()
served = 0


def app(environ, start_response):
    global served
    served += 1
    body = f"{os.getpid()} {LOADED_BY} {TOKEN} {served}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
