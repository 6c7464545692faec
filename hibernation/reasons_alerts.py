"""What hibernation raises alerts for. Pure."""

from core.reasons import register

register(
    {
        "box_will_not_go": "box {box} of instance {instance} was asked to go at {since} and is still billed, ${price} an hour",
        "box_is_stranded": "box {box} of instance {instance} came back after the instance had gone on without it, ${price} an hour: {why}",
        "box_is_unknown": "{why}",
        "wake_failed": "instance {instance} could not be woken: {why}",
        "start_failed": "instance {instance} could not be started: {why}",
        "instance_is_lost": "instance {instance} is lost: {why}",
        "instance_overdue": "instance {instance} is {state} for longer than {minutes:g} minutes",
    }
)
