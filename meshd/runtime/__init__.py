"""What makes a container runtime use meshd: the files it reads. The agent and `meshctl` write the same ones."""
