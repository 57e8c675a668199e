"""How fast is Headgate beside what a user would pick instead, measured in one run?

`python -m benchmarks` starts each peer that the machine has, alternates rounds between them and
compares medians: absolute figures drift with the machine and the hour, ratios within one run
do not. One core is the proxy's, the other is the load's and the upstreams'.
"""
