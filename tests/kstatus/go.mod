module asynctask.dev/tests/kstatus

go 1.26.6

require (
	go.yaml.in/yaml/v2 v2.4.2 // indirect
	sigs.k8s.io/cli-utils v0.37.2 // indirect
	sigs.k8s.io/yaml v1.6.0 // indirect
)
