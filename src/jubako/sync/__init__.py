"""L5: the blocking API, generated from the asynchronous one."""

from jubako.sync._generated.blocking import Connection, Files, Process, Reader, Sandbox, Writer, doctor, explain

__all__ = ["Connection", "Files", "Process", "Reader", "Sandbox", "Writer", "doctor", "explain"]
