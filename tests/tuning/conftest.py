from tests.ray_cluster import ray_cluster as ray_cluster
