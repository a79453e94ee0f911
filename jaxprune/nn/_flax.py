"""Says how to get Flax where it is missing, before anything else of `jaxprune.nn` is imported."""

from jaxprune import extras

extras.require("flax", extra="nn", needed_by="jaxprune.nn")
