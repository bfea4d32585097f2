"""Hypothesis without a database and without deadlines: a slow machine is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit", database=None, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")
