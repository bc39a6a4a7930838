"""What a run leaves to look at: the loss curve, the model card and the report page."""

from gpt2.report.card import write_card
from gpt2.report.curve import draw_loss, loss_curve, read_metrics, text_curve
from gpt2.report.environment import write_environment
from gpt2.report.page import write_report
from gpt2.report.record import record

__all__ = [
    "draw_loss",
    "loss_curve",
    "read_metrics",
    "record",
    "text_curve",
    "write_card",
    "write_environment",
    "write_report",
]
