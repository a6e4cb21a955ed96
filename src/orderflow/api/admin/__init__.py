"""`/admin/api`: what operators see and do, for those whose token has the role admin."""
