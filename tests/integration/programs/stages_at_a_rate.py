"""Stages at a rate for some seconds. Arguments: stages a second, seconds.

Prints as JSON how many there were, their exclusive joules and the memory before and after.
"""

import json
import os
import sys
import time

import psutil

import carbon_otel

rate, seconds = float(sys.argv[1]), float(sys.argv[2])
carbon_otel.instrument(zone="FR", interval_s=0.2)
process = psutil.Process(os.getpid())
begun = time.monotonic()
done, joules, memory = 0, 0.0, []
while (now := time.monotonic() - begun) < seconds:
    if done < now * rate:
        with carbon_otel.stage("inference", "predict") as s:
            pass
        joules += s.footprint.exclusive_j
        done += 1
        if done % rate == 0:
            memory.append(process.memory_info().rss)
    else:
        time.sleep(0.0005)
carbon_otel.uninstrument()
print(json.dumps({"done": done, "joules": joules, "memory": memory}))
