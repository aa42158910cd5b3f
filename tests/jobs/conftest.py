from tests.ray_head import jobs, ray_head  # noqa: F401
