// What Cilium's own code writes into etcd, as JSON: name -> value (hexadecimal where it is no text), for
// tests/unit/clustermesh/golden. With an argument: endpoint slices as its reader reads them, one hexadecimal value a line.
//
//	go run . > ../../unit/clustermesh/golden/cilium-1.20.1.json
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/cilium/cilium/pkg/cidr"
	cmstore "github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	ces "github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/key"
	"github.com/cilium/cilium/pkg/k8s/utils"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/labelsfilter"
	"github.com/cilium/cilium/pkg/node/addressing"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
	"github.com/cilium/cilium/pkg/source"
)

var out = map[string]string{}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func j(name string, v any) {
	b, err := json.Marshal(v)
	must(err)
	out[name] = string(b)
}

func slices() {
	docs := map[string]string{
		"slice-documented":   `{"cluster":"cluster3","clusterID":3,"namespace":"test","name":"echo-kvlm2","labels":{"kubernetes.io/service-name":"echo"},"addressType":"IPv4","endpoints":[{"addresses":["10.244.1.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"nodeport-worker","zone":"zone1","hints":{"forZones":[{"name":"zone1"}]}},{"addresses":["10.244.1.2"],"conditions":{"ready":false,"serving":false,"terminating":false},"nodeName":"nodeport-worker"}],"ports":[{"name":"http","protocol":"TCP","port":8080}]}`,
		"slice-minimal":      `{"cluster":"cluster3","clusterID":3,"namespace":"bar","name":"foo","addressType":"IPv4"}`,
		"slice-ipv6-unnamed": `{"cluster":"cluster3","clusterID":3,"namespace":"test","name":"dns-6","labels":{"b":"2","a":"1","kubernetes.io/service-name":"dns"},"annotations":{"y":"<&>","x":""},"addressType":"IPv6","endpoints":[{"addresses":["fd00::1","fd00::2"],"conditions":{},"hostname":"pod-0"},{"addresses":["fd00::3"],"conditions":{"ready":false,"serving":true,"terminating":true}}],"ports":[{"name":"","protocol":"UDP","port":53},{"protocol":"TCP","port":53},{"name":"any"}]}`,
		"slice-ours":         `{"cluster":"cluster3","clusterID":3,"namespace":"test","name":"echo-ipv4-0","labels":{"kubernetes.io/service-name":"echo"},"addressType":"IPv4","endpoints":[{"addresses":["10.244.1.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"hostname":"pod-0","zone":"zone1","hints":{"forZones":[{"name":"zone1"},{"name":"zone2"}]}},{"addresses":["10.244.1.2"],"conditions":{"ready":false,"serving":true,"terminating":true}}],"ports":[{"name":"","protocol":"UDP","port":53},{"name":"http","protocol":"TCP","port":8080}]}`,
	}
	for name, doc := range docs {
		var e ces.ClusterEndpointSlice
		must(json.Unmarshal([]byte(doc), &e))
		b, err := e.Marshal()
		must(err)
		out[name] = hex.EncodeToString(b)
	}
}

type namespace struct {
	name   string
	labels map[string]string
}

func (n *namespace) GetName() string              { return n.name }
func (n *namespace) GetLabels() map[string]string { return n.labels }

func main() {
	if len(os.Args) > 1 { // hex lines in, JSON out
		in := bufio.NewScanner(os.Stdin)
		in.Buffer(nil, 1<<26) // 16 MiB, twice
		for in.Scan() {
			b, err := hex.DecodeString(in.Text())
			must(err)
			var e ces.ClusterEndpointSlice
			if err := e.Unmarshal("", b); err != nil {
				fmt.Println("refused:", err)
				continue
			}
			o, err := json.Marshal(&e)
			must(err)
			fmt.Println(string(o))
		}
		return
	}
	slices()
	node := nodeTypes.Node{
		Name: "test-node-1", Cluster: "cluster3", ClusterID: 3, Source: source.CustomResource,
		IPAddresses:   []nodeTypes.Address{{Type: addressing.NodeInternalIP, IP: net.ParseIP("172.18.0.2")}, {Type: addressing.NodeExternalIP, IP: net.ParseIP("203.0.113.9")}, {Type: addressing.NodeCiliumInternalIP, IP: net.ParseIP("fd00:10:244::e2d6")}},
		IPv4AllocCIDR: cidr.MustParseCIDR("10.244.0.0/22"), IPv4SecondaryAllocCIDRs: []*cidr.CIDR{cidr.MustParseCIDR("10.245.0.0/25"), cidr.MustParseCIDR("10.246.7.7/32"), cidr.MustParseCIDR("0.0.0.0/0")},
		IPv6AllocCIDR: cidr.MustParseCIDR("fd00:10:244::/56"), IPv6SecondaryAllocCIDRs: []*cidr.CIDR{cidr.MustParseCIDR("fd00:11::/120")},
		IPv4HealthIP: net.ParseIP("10.244.0.134"), IPv6HealthIP: net.ParseIP("fd00:10:244::d812"), IPv4IngressIP: net.ParseIP("10.244.0.200"), IPv6IngressIP: net.ParseIP("fd00:10:244::c8"),
		EncryptionKey: 7, Labels: map[string]string{"kubernetes.io/hostname": "test-node-1", "a": "<&>"}, Annotations: map[string]string{"network.cilium.io/wg-pub-key": "VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI="},
		WireguardPubKey: "VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI=", BootID: "570d3fd1-93db-4862-ba99-6a3c2c10c38f",
	}
	b, err := node.Marshal()
	must(err)
	out["node-full"] = string(b)
	empty := nodeTypes.Node{Name: "n", Cluster: "cluster3", ClusterID: 3, Source: source.CustomResource}
	b, err = empty.Marshal()
	must(err)
	out["node-nil"] = string(b)
	hollow := nodeTypes.Node{Name: "n", Cluster: "cluster3", ClusterID: 3, Source: source.Local, IPAddresses: []nodeTypes.Address{}, IPv4SecondaryAllocCIDRs: []*cidr.CIDR{}, Labels: map[string]string{}, Annotations: map[string]string{}}
	b, err = hollow.Marshal()
	must(err)
	out["node-empty"] = string(b)

	pair := identity.IPIdentityPair{IP: net.ParseIP("10.244.2.74"), HostIP: net.ParseIP("172.18.0.2"), ID: 199475, Key: 5, K8sNamespace: "bar", K8sPodName: "cep-002", K8sServiceAccount: "default", NamedPorts: []identity.NamedPort{{Name: "http", Port: 8080, Protocol: "TCP"}, {Name: "dns", Port: 53, Protocol: "UDP"}}}
	j("ip-pod-named-ports", &pair)
	pair = identity.IPIdentityPair{IP: net.ParseIP("fd00:10:244:1::d643"), HostIP: net.ParseIP("172.18.0.3"), ID: 199472, K8sNamespace: "foo", K8sPodName: "cep-001", K8sServiceAccount: "default"}
	j("ip-pod-ipv6", &pair)
	pair = identity.IPIdentityPair{IP: net.ParseIP("10.1.0.0"), Mask: net.CIDRMask(16, 32), ID: 6}
	j("ip-prefix-no-host", &pair)
	pair = identity.IPIdentityPair{IP: net.ParseIP("10.1.0.1"), HostIP: net.ParseIP("172.18.0.3"), ID: 3, NamedPorts: []identity.NamedPort{}}
	j("ip-empty-named-ports", &pair)

	must(labelsfilter.ParseLabelPrefixCfg(slog.Default(), nil, nil, ""))
	id := func(pod map[string]string, of *namespace, account string) string {
		return key.GetCIDKeyFromLabels(utils.SanitizePodLabels(pod, of, account, "cluster3"), labels.LabelSourceK8s).GetKey()
	}
	out["identity"] = id(map[string]string{"app": "baz"}, &namespace{name: "bar"}, "")
	out["identity-many"] = id(map[string]string{
		"z": "", "app": "web", "app.kubernetes.io/name": "web", "B": "x", "a-b": "1", "a.b": "2", "a": "3",
		"kubernetes.io/hostname": "n1", "beta.kubernetes.io/arch": "amd64", "node.beta.kubernetes.io/x": "y",
		"statefulset.kubernetes.io/pod-name": "web-0", "apps.kubernetes.io/pod-index": "0",
		"batch.kubernetes.io/job-completion-index": "1", "batch.kubernetes.io/job-name": "j", "batch.kubernetes.io/controller-uid": "u",
		"controller-uid": "u", "pod-template-hash": "abc", "pod-template-generation": "1", "controller-revision-hash": "r",
		"topology.kubernetes.io/zone": "a", "k8s.io/x": "y", "networking.k8s.io/x": "y", "annotation.x": "y", "etcd_node": "e",
		"io.kubernetes.container.name": "c", "io.kubernetes.pod.namespace": "forged", "io.cilium.k8s.policy.cluster": "forged",
		"io.cilium.k8s.namespace.labels.team": "forged", "io.cilium.k8s.policy.serviceaccount": "forged",
	}, &namespace{name: "bar", labels: map[string]string{"kubernetes.io/metadata.name": "bar", "team": "a", "pod-security.kubernetes.io/enforce": "baseline"}}, "default")

	svc := cmstore.ClusterService{Cluster: "cluster3", Namespace: "ns", Name: "svc", ClusterID: 3}
	j("service-nil", &svc)
	svc = cmstore.ClusterService{Cluster: "cluster3", Namespace: "ns", Name: "svc", ClusterID: 3, Frontends: map[string]cmstore.PortConfiguration{}, Backends: map[string]cmstore.PortConfiguration{"10.0.0.9": {}, "fd00::2": nil}, Hostnames: map[string]string{"10.0.0.9": "pod-0"}, Zones: map[string]cmstore.BackendZone{"10.0.0.9": {Zone: "a"}}, Labels: map[string]string{}, Selector: map[string]string{}, IncludeExternal: true, Shared: true}
	j("service-empty", &svc)
	t, f := true, false
	for name, c := range map[string]cmtypes.CiliumClusterConfig{
		"config-255":        {ID: 3, Capabilities: cmtypes.CiliumClusterConfigCapabilities{SyncedCanaries: true, MaxConnectedClusters: 255, ServiceExportsEnabled: &f}},
		"config-511-cached": {ID: 511, Capabilities: cmtypes.CiliumClusterConfigCapabilities{SyncedCanaries: true, Cached: true, MaxConnectedClusters: 511, ServiceExportsEnabled: &t, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices}},
		"config-zero":       {},
	} {
		j(name, c)
	}
	b, err = json.MarshalIndent(out, "", " ")
	must(err)
	fmt.Println(string(b))
}
