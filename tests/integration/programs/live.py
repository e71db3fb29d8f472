"""A program that people look at: it asks for a name, prints, and works in stages until a line `end`, or Ctrl-C.

With the argument `alone` it measures itself, and prints nothing in between.
"""

import sys
import threading
import time

import carbon_otel

alone = "alone" in sys.argv
if alone:
    carbon_otel.instrument(zone="FR")
print("first line", flush=True)
name = input("your name? ")
print(f"hello {name}", flush=True)
ended = threading.Event()


def listen() -> None:
    for line in sys.stdin:
        if line.strip() == "end":
            ended.set()


threading.Thread(target=listen, daemon=True).start()
number = 0
try:
    with carbon_otel.stage("training", "forest"):
        while not ended.is_set():
            number += 1
            with carbon_otel.stage("training", "epoch") as epoch:
                time.sleep(0.1)
                epoch.units(samples=50)
            if not alone:
                print(f"line {number} of the program", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(7)
print("last line", flush=True)
