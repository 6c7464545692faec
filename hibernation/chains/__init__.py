"""The chains of an instance: hibernate, wake (and provision), discard. Importing this registers them."""

from hibernation.chains import discard, hibernate, wake

__all__ = ["discard", "hibernate", "wake"]
