"""A simulation of several processes in one: every interleaving from a seed, replayed exactly.

What runs is the package: hubs, feeds, streams, the state machine, listening, the broker through
the database, ``send_event``. What is played: the event loops and their clock (``scheduler``), the
database (``database``), the network between processes (``bus``), the clients, who also judge what
they get (``client``), and the faults (``plan``). ``package`` puts the package into a ``world``,
which holds all of it and gives the verdict.

There are no sockets, threads or seconds: a run takes a few milliseconds.

    python -m tests.simulation --runs 1000000 --jobs 2 --seed 1
"""

import os

import django
from django.apps import apps

if not apps.ready:  # not through pytest, and one of the brokers imports models
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
