package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// object is something to be created in the API: the collection's path, the object's name and its content.
type object struct {
	path, name string
	body       map[string]any
}

// client is an administrator's HTTP client.
func (c Cluster) client() (*http.Client, error) {
	ca, err := os.ReadFile(c.Path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.Path("pki", "admin.crt"), c.Path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}},
	}, nil
}

// request sends JSON and decodes the answer into out, if out is not nil.
func (c Cluster) request(ctx context.Context, method, path string, body, out any) (status int, err error) {
	client, err := c.client()
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	content, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.Slot.APIServer()+path, bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	request.Header.Set("User-Agent", "asynctask-cluster")
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, err
	}
	if response.StatusCode >= 300 {
		return response.StatusCode, fmt.Errorf("%s %s: %s: %.500s", method, path, response.Status, answer)
	}
	if out == nil {
		return response.StatusCode, nil
	}
	return response.StatusCode, json.Unmarshal(answer, out)
}

func (c Cluster) apiReady(ctx context.Context) error {
	_, err := c.request(ctx, http.MethodGet, "/readyz", nil, nil)
	return err
}

// create makes an object; one that is there already is left as it is. (It asks first: a second service with the same cluster IP
// is refused for its address, not for its name.)
func (c Cluster) create(ctx context.Context, o object) error {
	status, err := c.request(ctx, http.MethodGet, o.path+"/"+o.name, nil, nil)
	if status != http.StatusNotFound {
		return err
	}
	_, err = c.request(ctx, http.MethodPost, o.path, o.body, nil)
	return err
}

func (c Cluster) nodeReady(ctx context.Context) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if _, err := c.request(ctx, http.MethodGet, "/api/v1/nodes/"+c.Name, nil, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" {
			return nil
		} else if condition.Type == "Ready" {
			return fmt.Errorf("node %s is not Ready: %s", c.Name, condition.Message)
		}
	}
	return fmt.Errorf("node %s has no condition Ready yet", c.Name)
}

// declareStorage says how much local storage the node has, in the kubelet's place: it cannot measure the file systems of every
// machine, so it is told not to (localStorageCapacityIsolation), and then no pod that asks for ephemeral storage is scheduled.
func (c Cluster) declareStorage(ctx context.Context) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(c.Path(), &disk); err != nil {
		return fmt.Errorf("measure %s: %w", c.Path(), err)
	}
	size := map[string]string{"ephemeral-storage": strconv.FormatUint(disk.Blocks*uint64(disk.Bsize), 10)}
	status := map[string]any{"status": map[string]any{"capacity": size, "allocatable": size}}
	_, err := c.request(ctx, http.MethodPatch, "/api/v1/nodes/"+c.Name+"/status", status, nil)
	return err
}

// accountReady: without it no pod is admitted in the namespace `default`.
func (c Cluster) accountReady(ctx context.Context) error {
	_, err := c.request(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	return err
}
