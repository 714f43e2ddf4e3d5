package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// component is one process of the cluster.
type component struct {
	name string
	args []string
	// ready returns nil once it serves.
	ready func(context.Context) error
	// first: the others are started once these are ready, for they would only back off.
	first bool
}

// components lists all, in the order they are started. The list is a function of the record alone, so `restart` starts what
// `up` started.
func (c Cluster) components() []component {
	kube := c.Programs.binary("kube", "kube")
	node := c.Slot.NodeIP()
	pki := func(file string) string { return c.Path("pki", file) }
	all := []component{
		{
			name: "etcd", first: true, ready: get("http://" + node + ":2381/health"),
			args: []string{kube, "etcd", "--name=" + c.Name, "--data-dir=" + c.Path("etcd"),
				// A cluster does not outlive the machine: syncing to disk would only slow every write.
				"--unsafe-no-fsync",
				"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
				"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
				"--initial-cluster=" + c.Name + "=http://127.0.0.1:2380",
				// Health and metrics only: nothing but the API server reaches the data.
				"--listen-metrics-urls=http://" + node + ":2381", "--log-level=warn"},
		},
		{
			name: "containerd", first: true, ready: dialUnix(c.containerdSocket()),
			args: []string{c.Programs.binary("containerd", "containerd"), "--config=" + c.Path("config", "containerd.toml")},
		},
		{
			name: "kube-apiserver", first: true, ready: c.apiReady,
			args: []string{kube, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
				"--advertise-address=" + node, "--secure-port=6443", "--endpoint-reconciler-type=lease",
				"--service-cluster-ip-range=" + c.Slot.ServiceCIDR(),
				"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
				"--client-ca-file=" + pki("ca.crt"), "--authorization-mode=Node,RBAC",
				"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
				"--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
				"--kubelet-certificate-authority=" + pki("ca.crt"),
				"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
				// Else `kubectl logs` looks up the node's name, which is in no DNS.
				"--kubelet-preferred-address-types=InternalIP",
				"--audit-policy-file=" + c.Path("config", "audit-policy.json"), "--audit-log-path=" + c.Path("audit.log"),
				// Tests read the whole log: never rotate (megabytes).
				"--audit-log-maxsize=100000"},
		},
		{
			name: "kube-controller-manager", ready: get("https://" + node + ":10257/healthz"),
			args: []string{kube, "kube-controller-manager", "--kubeconfig=" + pki("controller-manager.kubeconfig"),
				"--bind-address=" + node, "--leader-elect=false", "--use-service-account-credentials",
				"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("sa.key"),
				"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
				"--kube-api-qps=500", "--kube-api-burst=1000"},
		},
		{
			name: "kube-scheduler", ready: get("https://" + node + ":10259/healthz"),
			args: []string{kube, "kube-scheduler", "--kubeconfig=" + pki("scheduler.kubeconfig"),
				"--bind-address=" + node, "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"},
		},
		{
			name: "kubelet", ready: get("http://" + node + ":10248/healthz"),
			args: []string{kube, "kubelet", "--kubeconfig=" + pki("kubelet.kubeconfig"),
				"--config=" + c.Path("config", "kubelet.json"), "--root-dir=" + c.Path("kubelet"),
				"--cert-dir=" + c.Path("pki", "kubelet"), "--hostname-override=" + c.Name, "--node-ip=" + node},
		},
		{
			name: "kube-proxy", ready: get("http://" + node + ":10256/healthz"),
			args: []string{kube, "kube-proxy", "--config=" + c.Path("config", "kube-proxy.json")},
		},
		{
			name: "coredns", ready: c.nameResolves,
			args: []string{c.Programs.binary("coredns", "coredns"), "-conf", c.Path("config", "Corefile")},
		},
	}
	if _, fakes := c.Programs["kwok"]; fakes {
		all = append(all, c.kwok())
	}
	return all
}

// component finds one by name; the kube- prefix may be left out.
func (c Cluster) component(name string) (component, error) {
	var names []string
	for _, comp := range c.components() {
		if comp.name == name || comp.name == "kube-"+name {
			return comp, nil
		}
		names = append(names, comp.name)
	}
	return component{}, fmt.Errorf("no component %q; there are %s", name, strings.Join(names, ", "))
}

// probeClient does not verify: scheduler and controller manager serve their health with a certificate of their own making.
var probeClient = &http.Client{
	Timeout:   2 * time.Second,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
}

// get is ready when the URL answers 200.
func get(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := probeClient.Do(request)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

func dialUnix(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// nameResolves asks for the API service by name, at the cluster IP: so route, kube-proxy and CoreDNS all work.
func (c Cluster) nameResolves(ctx context.Context) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.Slot.DNSServiceIP()+":53")
	}}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addresses, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err != nil {
		return err
	}
	if len(addresses) != 1 || addresses[0] != c.Slot.APIServiceIP() {
		return fmt.Errorf("kubernetes.default resolves to %v, not %s", addresses, c.Slot.APIServiceIP())
	}
	return nil
}
