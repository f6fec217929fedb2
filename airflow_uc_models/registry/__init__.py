"""The registry protocol: verbs as generators of requests. No Airflow, no sockets."""
