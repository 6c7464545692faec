"""`./run demo`: the whole story on real processes and real bytes, told as it happens."""

from config.launcher.demo.main import demo

__all__ = ["demo"]
