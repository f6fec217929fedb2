"""The demo: a real MLflow server and a real Airflow on this machine, and a story played through them."""
