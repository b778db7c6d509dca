"""Sends an event, and one from a child process: ``python -m tests.project.children fork``."""

import multiprocessing
import sys

import django


def send(text):
    django.setup()
    from django_eventstream import send_event

    send_event("loose-a", "message", text)


if __name__ == "__main__":
    send("parent")
    child = multiprocessing.get_context(sys.argv[1]).Process(target=send, args=["child"])
    child.start()
    child.join()
