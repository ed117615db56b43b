"""A stand-in for Akto's Data Ingestion Service, for tests and the demo."""
