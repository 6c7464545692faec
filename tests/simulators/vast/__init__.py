"""vast.ai as it is known from outside, on this machine: its HTTP API with its quirks, boxes that are real processes, an
invoice, and faults on order. docs/providers.md says what of it is documented and what was observed by others.

    python -m tests.simulators.vast DIR [--port P] [--boot-s S] [--boxes onstart|agent|none] [--pace SCALE]

`running.Simulator` starts one for a test. What a test orders and looks up goes through /simulator/…, which vast.ai lacks.
"""
