package main

import "fmt"

const corednsUser = "system:coredns"

// writeConfigs writes every component's configuration file. They depend on the cluster's name, slot and directories only.
func (c Cluster) writeConfigs() error {
	cni, found := cniDir()
	if !found {
		return fmt.Errorf("no CNI plugins in %v: install containernetworking-plugins", cniDirs)
	}
	for name, config := range map[string]map[string]any{
		"audit-policy.json":      auditPolicy(),
		"kubelet.json":           c.kubeletConfig(),
		"kube-proxy.json":        c.proxyConfig(),
		"cni/10-bridge.conflist": c.cniConfig(),
	} {
		if err := writeJSON(c.Path("config", name), config); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"containerd.toml": c.containerdConfig(cni),
		"Corefile":        c.corefile(),
		// Pods with dnsPolicy Default get this: no name server, so a look-up fails at once instead of timing out.
		"resolv.conf": "# cluster " + c.Name + ": no way out\n",
	} {
		if err := writeFile(c.Path("config", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// auditPolicy keeps one line per finished request. Tests read verbs, users, user agents and objects from it, and for what
// matters to them the bodies.
func auditPolicy() map[string]any {
	type rule = map[string]any
	writes := []string{"create", "update", "patch", "delete", "deletecollection"}
	reads := []string{"get", "list", "watch"}
	in := func(group string, resources ...string) []rule {
		if len(resources) == 0 {
			return []rule{{"group": group}}
		}
		return []rule{{"group": group, "resources": resources}}
	}
	return map[string]any{
		"apiVersion":        "audit.k8s.io/v1",
		"kind":              "Policy",
		"omitStages":        []string{"RequestReceived", "ResponseStarted"},
		"omitManagedFields": true,
		"rules": []rule{
			// The cluster's own heartbeat and probes.
			{"level": "None", "verbs": reads, "resources": in("coordination.k8s.io", "leases")},
			{"level": "None", "verbs": reads, "resources": in("", "nodes", "nodes/status")},
			{"level": "None", "nonResourceURLs": []string{"/healthz*", "/livez*", "/readyz*"}},
			// Bodies of lists would make the log grow with the square of the number of tasks.
			{"level": "RequestResponse", "verbs": append([]string{"get"}, writes...), "resources": in("asynctask.dev")},
			{"level": "RequestResponse", "verbs": writes, "resources": in("batch", "jobs")},
			{"level": "RequestResponse", "verbs": writes, "resources": in("", "pods")},
			{"level": "Metadata"},
		},
	}
}

func (c Cluster) kubeletConfig() map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": c.Path("pki", "ca.crt")},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"tlsCertFile":              c.Path("pki", "kubelet-server.crt"),
		"tlsPrivateKeyFile":        c.Path("pki", "kubelet-server.key"),
		"healthzBindAddress":       c.Slot.NodeIP(),
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{c.Slot.DNSServiceIP()},
		"resolvConf":               c.Path("config", "resolv.conf"),
		"containerRuntimeEndpoint": "unix://" + c.containerdSocket(),
		"podLogsDir":               c.Path("pod-logs"),
		"volumePluginDir":          c.Path("volume-plugins"),

		"cgroupDriver": "cgroupfs",
		"cgroupRoot":   "/" + cgroupName(c.Name),
		"failCgroupV1": false,
		"failSwapOn":   false,
		// This is somebody's machine: reserve nothing, tune nothing, evict only when memory is really out.
		"enforceNodeAllocatable":        []string{},
		"localStorageCapacityIsolation": false,
		"imageGCHighThresholdPercent":   100,
		"evictionHard":                  map[string]string{"memory.available": "100Mi"},
		// A lower value than the caller's needs CAP_SYS_RESOURCE, which containers and small machines lack.
		"oomScoreAdj": 0,

		"maxPods":             200,
		"serializeImagePulls": false,
		"registryPullQPS":     0,
		"eventRecordQPS":      0,
		"kubeAPIQPS":          200,
		"kubeAPIBurst":        400,
	}
}

func (c Cluster) proxyConfig() map[string]any {
	// Zero leaves the machine's own connection tracking limits alone (they cannot be written from a namespace anyway).
	untouched := "0s"
	return map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "nftables",
		"clusterCIDR":        c.Slot.PodCIDR(),
		"hostnameOverride":   c.Name,
		"bindAddress":        c.Slot.NodeIP(),
		"healthzBindAddress": c.Slot.NodeIP() + ":10256",
		"metricsBindAddress": c.Slot.NodeIP() + ":10249",
		"oomScoreAdj":        0,
		"clientConnection":   map[string]any{"kubeconfig": c.Path("pki", "proxy.kubeconfig")},
		"conntrack": map[string]any{
			"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": untouched, "tcpCloseWaitTimeout": untouched,
		},
	}
}

func (c Cluster) cniConfig() map[string]any {
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       cniNetwork(c.Name),
		"plugins": []map[string]any{
			{
				"type":        "bridge",
				"bridge":      "cni0",
				"isGateway":   true,
				"hairpinMode": true, // a pod reaches itself through its service
				"ipam": map[string]any{
					"type":    "host-local",
					"dataDir": c.Path("cni"),
					"ranges": [][]map[string]any{{{
						"subnet": c.Slot.PodCIDR(), "gateway": c.Slot.BridgeIP(),
						"rangeStart": fmt.Sprintf("10.244.%d.10", c.Slot),
					}}},
					"routes": []map[string]any{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
}

func cniNetwork(cluster string) string { return "asynctask-" + cluster }

func (c Cluster) containerdConfig(cni string) string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
oom_score = 0
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = %[3]q

[plugins.'io.containerd.internal.v1.opt']
path = %[4]q

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %[5]q

[plugins.'io.containerd.cri.v1.runtime']
# Without CAP_SYS_RESOURCE a container cannot get the negative score the kubelet asks for.
restrict_oom_score_adj = true
# So that they are found, and unmounted, with everything else of the cluster.
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%[6]q]
conf_dir = %[7]q
# The loopback plugin would leave a file per pod in /var/lib/cni.
use_internal_loopback = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
Root = %[8]q
`, c.Path("containerd", "root"), c.Path("containerd", "state"), c.containerdSocket(), c.Path("containerd", "opt"),
		pauseImageName, cni, c.Path("config", "cni"), c.Path("runc"))
}

func (c Cluster) corefile() string {
	return fmt.Sprintf(`.:53 {
    bind %s
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig %s
        pods insecure
        ttl 5
    }
    cache 5
}
`, c.Slot.NodeIP(), c.Path("pki", "coredns.kubeconfig"))
}

// objects are what the cluster itself needs in the API: CoreDNS is a host process, so its service has a hand-made endpoint.
func (c Cluster) objects() []object {
	const discovery = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	meta := func(name string) map[string]any {
		return map[string]any{"name": name, "labels": map[string]string{"k8s-app": "kube-dns", "kubernetes.io/service-name": "kube-dns"}}
	}
	ports := []map[string]any{
		{"name": "dns", "protocol": "UDP", "port": 53},
		{"name": "dns-tcp", "protocol": "TCP", "port": 53},
	}
	read := func(group string, resources ...string) map[string]any {
		return map[string]any{"apiGroups": []string{group}, "resources": resources, "verbs": []string{"list", "watch"}}
	}
	return []object{
		{rbac + "clusterroles", corednsUser, map[string]any{
			"metadata": meta(corednsUser),
			"rules":    []any{read("", "services", "pods", "namespaces"), read("discovery.k8s.io", "endpointslices")},
		}},
		{rbac + "clusterrolebindings", corednsUser, map[string]any{
			"metadata": meta(corednsUser),
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": corednsUser},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": corednsUser}},
		}},
		{"/api/v1/namespaces/kube-system/services", "kube-dns", map[string]any{
			"metadata": meta("kube-dns"),
			"spec":     map[string]any{"clusterIP": c.Slot.DNSServiceIP(), "ports": ports},
		}},
		{discovery, "kube-dns", map[string]any{
			"metadata":    meta("kube-dns"),
			"addressType": "IPv4",
			"ports":       ports,
			"endpoints":   []any{map[string]any{"addresses": []string{c.Slot.NodeIP()}, "conditions": map[string]any{"ready": true}}},
		}},
	}
}
