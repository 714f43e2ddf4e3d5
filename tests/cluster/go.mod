module asynctask.dev/tests/cluster

go 1.26.0
