package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs the certificates of one cluster. It trusts and is trusted by nothing else.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// leaf describes a certificate: for a client, user and groups; for a server, also its addresses.
type leaf struct {
	file   string // below pki/, without extension
	user   string
	groups []string
	names  []string
	ips    []string
}

// leaves are all certificates of a cluster.
func (c Cluster) leaves() []leaf {
	return []leaf{
		{file: "apiserver", user: "kube-apiserver",
			names: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			ips:   []string{"127.0.0.1", c.Slot.NodeIP(), c.Slot.APIServiceIP()}},
		{file: "kubelet-server", user: "system:node:" + c.Name, groups: []string{"system:nodes"},
			names: []string{c.Name}, ips: []string{c.Slot.NodeIP()}},
		// What the API server shows to the kubelet.
		{file: "apiserver-kubelet", user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "admin", user: "admin", groups: []string{"system:masters"}},
		{file: "controller-manager", user: "system:kube-controller-manager"},
		{file: "scheduler", user: "system:kube-scheduler"},
		{file: "kubelet", user: "system:node:" + c.Name, groups: []string{"system:nodes"}},
		{file: "proxy", user: "system:kube-proxy"},
		{file: "coredns", user: corednsUser},
	}
}

// clients are the leaves that get a kubeconfig.
var clients = []string{"admin", "controller-manager", "scheduler", "kubelet", "proxy", "coredns"}

// makePKI makes all keys and certificates, once. The administrator's kubeconfig is written last: it says that all are there.
func (c Cluster) makePKI() error {
	if exists(c.kubeconfig()) {
		return nil
	}
	ca, err := newAuthority("asynctask cluster " + c.Name)
	if err != nil {
		return err
	}
	if err := writeFile(c.Path("pki", "ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	// The controller manager signs CertificateSigningRequests with it.
	if err := writeFile(c.Path("pki", "ca.key"), caKey, 0o600); err != nil {
		return err
	}
	if err := c.makeServiceAccountKey(); err != nil {
		return err
	}
	for _, l := range c.leaves() {
		cert, key, err := ca.issue(l)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", l.file, err)
		}
		if err := writeFile(c.Path("pki", l.file+".crt"), cert, 0o644); err != nil {
			return err
		}
		if err := writeFile(c.Path("pki", l.file+".key"), key, 0o600); err != nil {
			return err
		}
	}
	return c.writeKubeconfigs()
}

// makeServiceAccountKey makes the key that signs service account tokens. RSA, as every installer does it: clients exist that
// verify nothing else.
func (c Cluster) makeServiceAccountKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writeFile(c.Path("pki", "sa.key"), private, 0o600); err != nil {
		return err
	}
	return writeFile(c.Path("pki", "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644)
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificate(name, nil)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// certificate is the part common to all. It begins an hour ago: clocks of containers and hosts differ.
func certificate(name string, groups []string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("crypto/rand never fails: " + err.Error())
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func (a *authority) issue(l leaf) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := certificate(l.user, l.groups)
	template.DNSNames = l.names
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, ip := range l.ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	if len(l.ips) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeKubeconfigs writes one kubeconfig for each client; the administrator's last, at the place people look: its presence says
// that everything before it is there.
func (c Cluster) writeKubeconfigs() error {
	for i := len(clients) - 1; i >= 0; i-- {
		path := c.Path("pki", clients[i]+".kubeconfig")
		if clients[i] == "admin" {
			path = c.kubeconfig()
		}
		config, err := c.clientConfig(clients[i])
		if err != nil {
			return err
		}
		if err := writeJSON(path, config); err != nil {
			return err
		}
	}
	return nil
}

// clientConfig is a kubeconfig with everything in it: it works from any directory. (JSON is YAML.)
func (c Cluster) clientConfig(client string) (map[string]any, error) {
	contents := map[string][]byte{}
	for _, file := range []string{"ca.crt", client + ".crt", client + ".key"} {
		content, err := os.ReadFile(c.Path("pki", file))
		if err != nil {
			return nil, err
		}
		contents[file] = content
	}
	named := func(kind string, value map[string]any) []any {
		return []any{map[string]any{"name": c.Name, kind: value}}
	}
	return map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": named("cluster", map[string]any{
			"server": c.Slot.APIServer(), "certificate-authority-data": contents["ca.crt"],
		}),
		"users": named("user", map[string]any{
			"client-certificate-data": contents[client+".crt"], "client-key-data": contents[client+".key"],
		}),
		"contexts":        named("context", map[string]any{"cluster": c.Name, "user": c.Name}),
		"current-context": c.Name,
	}, nil
}
