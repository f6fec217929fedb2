"""Apache Airflow provider for models in Unity Catalog and MLflow registries."""

__version__ = "0.1.0"
