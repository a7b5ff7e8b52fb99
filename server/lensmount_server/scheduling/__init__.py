"""Which frames the engine takes next: pure logic with the clock as an argument, no thread, no event loop, no tensor."""

from lensmount_server.scheduling.costs import Costs, LearnedCosts, best_batch
from lensmount_server.scheduling.overhead import Overhead, measure_overhead
from lensmount_server.scheduling.queue import MAX_BATCH, MAX_WAITING, Queue
from lensmount_server.scheduling.rates import StreamClock, Turns, TurnTable
from lensmount_server.scheduling.tickets import ANY_TIME, Batch, Reason, Refusal, Terms, Ticket

__all__ = [
    "ANY_TIME",
    "MAX_BATCH",
    "MAX_WAITING",
    "Batch",
    "Costs",
    "LearnedCosts",
    "Overhead",
    "Queue",
    "Reason",
    "Refusal",
    "StreamClock",
    "Terms",
    "Ticket",
    "TurnTable",
    "Turns",
    "best_batch",
    "measure_overhead",
]
