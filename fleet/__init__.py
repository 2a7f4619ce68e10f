"""A federation on machines: one inventory, a plan with its price, and the way there and back.

inventory   what is wanted: one coordinator, sites, auditors, each with its machine
linode      machines of a cloud; the only place for linode_api4
pins        which host keys are believed, before the first packet
ssh         one connection to a machine, through stock ssh
images      what runs there, and the way of its missing layers
compose     what a machine runs, made from docker-compose.yml
look        what is on a machine now
plan        what is missing; whether it fits; what it costs. Pure
host        the steps on one machine
fleet       all of them: up, upgrade, backup, down
on_host/    every line of shell that runs on a machine
"""
