package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRequiredVersion(t *testing.T) {
	const gomod = "module m\n\nrequire example.org/one v1.2.3\n\nrequire (\n\texample.org/two v0.4.5 // indirect\n)\n\nreplace example.org/two => example.org/two v9.9.9\n"
	for module, want := range map[string]string{"example.org/one": "v1.2.3", "example.org/two": "v0.4.5"} {
		if got, err := requiredVersion([]byte(gomod), module); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", module, got, err, want)
		}
	}
	if _, err := requiredVersion([]byte(gomod), "example.org/o"); err == nil {
		t.Error("a prefix of a module's path is taken for it")
	}
}

func TestHashFollowsSourcesAndPins(t *testing.T) {
	source := t.TempDir()
	p := program{name: "p", module: "example.org/one", ldflags: func(v string) string { return "-X main.v=" + v }}
	write := func(file, content string) {
		if err := writeFile(filepath.Join(source, "p", file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hash := func() string {
		r, err := p.recipe(source)
		if err != nil {
			t.Fatal(err)
		}
		return r.hash
	}
	write("go.mod", "require example.org/one v1.0.0\n")
	write("go.sum", "a\n")
	write("main.go", "package main\n")
	first := hash()
	if hash() != first {
		t.Error("the same files give two hashes")
	}
	seen := map[string]bool{first: true}
	for file, content := range map[string]string{"go.mod": "require example.org/one v1.0.1\n", "go.sum": "b\n", "main.go": "package main // b\n"} {
		write(file, content)
		if h := hash(); seen[h] {
			t.Errorf("a change of %s leaves the hash as it was", file)
		} else {
			seen[h] = true
		}
	}
	r, err := p.recipe(source)
	if err != nil || !strings.HasSuffix(r.flags, "-X main.v=v1.0.1") {
		t.Errorf("linker flags %q, %v do not tell the pinned version", r.flags, err)
	}
}

func TestCommittedPinsAreReadable(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if _, err := p.recipe(here); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

func TestKubeVersion(t *testing.T) {
	const pkg = "-X k8s.io/component-base/version."
	want := pkg + "gitVersion=v1.37.2 " + pkg + "gitMajor=1 " + pkg + "gitMinor=37 -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2"
	if got := kubeVersion("v1.37.2"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
