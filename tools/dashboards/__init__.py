"""Grafana's dashboards, made of what each panel shows.

panels   a panel, a table, a dashboard: ids, places and what all of a kind share
site     how a site is: capacity, power, energy, its meters
meter    one meter
system   the controller's own health
__main__ writes them into config/grafana/dashboards: `python -m tools.dashboards`
"""
