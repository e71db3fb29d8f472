"""The carbon intensity of a grid by the hour, from files and services, and what it says about measured energy."""
