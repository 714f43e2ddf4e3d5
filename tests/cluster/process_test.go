package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStatSkipsAnyCommandName(t *testing.T) {
	const rest = " S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10 11"
	for _, name := range []string{"(sh)", "(a b)", "(x) R 9 9)", "())"} {
		start, state, err := parseStat("42 " + name + rest)
		if err != nil || start != 4711 || state != "S" {
			t.Errorf("%s: got %d, %q, %v", name, start, state, err)
		}
	}
	for _, broken := range []string{"", "42 (sh", "42 (sh) S 1 2"} {
		if _, _, err := parseStat(broken); err == nil {
			t.Errorf("%q is accepted", broken)
		}
	}
}

func TestIdentityIsOfOneProcess(t *testing.T) {
	me, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !me.alive() {
		t.Error("this process is said to be dead")
	}
	reused, restarted := me, me
	reused.Start++
	restarted.Boot = "another boot"
	if reused.alive() {
		t.Error("a reused pid is taken for the old process")
	}
	if restarted.alive() {
		t.Error("a pid of before the machine's restart is taken for the old process")
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Not waited for yet: it stays in the process table.
	if !waitUntil(5*time.Second, func() bool { return !id.alive() }) {
		t.Error("a killed process is still said to be alive")
	}
	_ = cmd.Wait()
}
