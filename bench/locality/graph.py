#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes a trace of one build in which most jobs wait for others: `graph.py SEED [JOBS]`. All of it is synthetic: a job
waits for up to six, some of the many that lie shortly before it and some of the few that all need; each makes a root
that those behind it read three tenths of; run times and sizes are lognormal."""
import random
import sys


def depends_on(chance, job, jobs):
    if job < jobs // 20:
        return []
    found = set()
    for _ in range(chance.choice((1, 1, 2, 2, 3, 4, 6))):
        popular = chance.random() < 0.5
        found.add(chance.randrange(max(1, int(job**0.8))) if popular
                  else max(0, job - 1 - int(chance.expovariate(15 / jobs))))
    return sorted(found)


def main():
    seed, jobs = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1500
    chance = random.Random(seed)
    print("croft-locality-trace 1")
    print("note graph all of it is synthetic")
    print("text ")
    for job in range(jobs):
        print(f"text kind{job}")
    print("text family")
    for job in range(jobs):
        print(f"root {int(min(400e6, max(1.2e6, chance.lognormvariate(16, 1.3))))} made{job}")
    for job in range(jobs):
        before = depends_on(chance, job, jobs)
        run = max(500, int(chance.lognormvariate(9.5, 1)))
        print(f"job {1 + job} {1 + jobs} 0 0 0 {run} {','.join(f'{number}:300' for number in before) or '-'} "
              f"{','.join(map(str, before)) or '-'}")


if __name__ == "__main__":
    main()
