"""The exporter: what lies in Redis and PostgreSQL, asked at every scrape."""
