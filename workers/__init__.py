"""Code that runs on Ray: the driver of a job, and the trainable that trains one trial."""
