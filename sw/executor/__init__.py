"""The golden executor: runs programs as the accelerator does, without its timing."""

from sw.executor.execution import Execution, execute, run_program
from sw.executor.machine import COUNTS, ExecutionError

__all__ = ["COUNTS", "Execution", "ExecutionError", "execute", "run_program"]
