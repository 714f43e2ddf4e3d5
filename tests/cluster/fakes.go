package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
)

//go:embed stages.yaml
var stages []byte

// fakeMark is the annotation and taint of nodes that kwok plays. Only pods that tolerate the taint come there.
const fakeMark = "kwok.x-k8s.io/node"

// kwok plays the kubelet of fake nodes: pods on them run at once, and those of Jobs succeed (stages.yaml).
func (c Cluster) kwok() component {
	health := c.Slot.NodeIP() + ":10247"
	return component{
		name: "kwok", ready: get("http://" + health + "/healthz"),
		args: []string{c.Programs.binary("kwok", "kwok"), "--kubeconfig=" + c.kubeconfig(),
			"--config=" + c.Path("config", "stages.yaml"), "--server-address=" + health,
			"--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=" + fakeMark + "=fake",
			"--node-lease-duration-seconds=40"},
	}
}

// fakes adds fake nodes to a running cluster, up to that many. It is safe to repeat.
func fakes(c Cluster, nodes int) error {
	programs, err := build(c.cache, "kwok")
	if err != nil {
		return err
	}
	release, err := hold(c.cache.lock(c.Name), func() { say("another command works on cluster %s: waiting for it", c.Name) })
	if err != nil {
		return err
	}
	defer release()
	c.Programs["kwok"] = programs["kwok"]
	if err := c.save(); err != nil {
		return err
	}
	if err := os.WriteFile(c.Path("config", "stages.yaml"), stages, 0o644); err != nil {
		return err
	}
	// A try before may have ended badly.
	if err := c.forgetDead(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	comp := c.kwok()
	if err := c.start(comp); err != nil {
		return err
	}
	if err := c.await(ctx, comp.ready); err != nil {
		return fmt.Errorf("kwok does not become ready: %w", err)
	}
	for n := range nodes {
		if err := c.create(ctx, fakeNode(n)); err != nil {
			return err
		}
	}
	say("%d fake nodes; their pods need the toleration of %s", nodes, fakeMark)
	return nil
}

func fakeNode(n int) object {
	name := fmt.Sprintf("fake-%d", n)
	room := map[string]string{"cpu": "64", "memory": "256Gi", "pods": "1000"}
	return object{"/api/v1/nodes", name, map[string]any{
		"metadata": map[string]any{
			"name":        name,
			"annotations": map[string]string{fakeMark: "fake"},
			"labels":      map[string]string{"type": "kwok", "kubernetes.io/hostname": name},
		},
		"spec":   map[string]any{"taints": []map[string]string{{"key": fakeMark, "value": "fake", "effect": "NoSchedule"}}},
		"status": map[string]any{"allocatable": room, "capacity": room},
	}}
}
