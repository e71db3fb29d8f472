"""Opens stages at a rate, or slower on a slow machine. Arguments: stages per second, number of stages.

Prints as JSON their exclusive joules, and the memory after each second of stages.
"""

import json
import os
import sys
import time

import psutil

import carbon_otel

rate, stages = int(sys.argv[1]), int(sys.argv[2])
carbon_otel.instrument(zone="FR", interval_s=0.2)
process = psutil.Process(os.getpid())
begun = time.monotonic()
joules, memory = 0.0, []
for number in range(1, stages + 1):
    while (time.monotonic() - begun) * rate < number:
        time.sleep(0.0005)
    with carbon_otel.stage("inference", "predict") as s:
        pass
    joules += s.footprint.exclusive_j
    if number % rate == 0:
        memory.append(process.memory_info().rss)
carbon_otel.uninstrument()
print(json.dumps({"joules": joules, "memory": memory}))
