"""The only code that touches BullMQ: connections, adding jobs, running workers."""
