// Command libcni gives a plugin list the commands of a container runtime, through the library that runtimes use.
//
//	libcni CONFLIST PLUGIN_DIRECTORY CACHE_DIRECTORY add|check|del CONTAINER NETNS IFNAME
//	libcni CONFLIST PLUGIN_DIRECTORY CACHE_DIRECTORY gc [CONTAINER/IFNAME ...]
//	libcni CONFLIST PLUGIN_DIRECTORY CACHE_DIRECTORY status|validate
//
// It prints the result of add as JSON; an error goes to stderr, as JSON where the plugin gave one, and the status is 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	result, err := run(os.Args[1:])
	if err != nil {
		fail(err)
	}
	if result != nil {
		if err := result.PrintTo(os.Stdout); err != nil {
			fail(err)
		}
	}
}

func run(arguments []string) (types.Result, error) {
	if len(arguments) < 4 {
		return nil, errors.New("usage: libcni CONFLIST PLUGIN_DIRECTORY CACHE_DIRECTORY COMMAND ...")
	}
	list, err := libcni.ConfListFromFile(arguments[0])
	if err != nil {
		return nil, err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{arguments[1]}, arguments[2], nil)
	ctx := context.Background()
	command, rest := arguments[3], arguments[4:]
	switch command {
	case "gc":
		return nil, cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: attachments(rest)})
	case "status":
		return nil, cni.GetStatusNetworkList(ctx, list)
	case "validate":
		_, err := cni.ValidateNetworkList(ctx, list)
		return nil, err
	}
	if len(rest) != 3 {
		return nil, fmt.Errorf("%s needs CONTAINER NETNS IFNAME", command)
	}
	pod := &libcni.RuntimeConf{
		ContainerID: rest[0],
		NetNS:       rest[1],
		IfName:      rest[2],
		Args:        [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", rest[0]}},
	}
	switch command {
	case "add":
		return cni.AddNetworkList(ctx, list, pod)
	case "check":
		return nil, cni.CheckNetworkList(ctx, list, pod)
	case "del":
		return nil, cni.DelNetworkList(ctx, list, pod)
	}
	return nil, fmt.Errorf("no command is called %s", command)
}

func attachments(names []string) []types.GCAttachment {
	valid := []types.GCAttachment{}
	for _, name := range names {
		container, ifname, _ := strings.Cut(name, "/")
		valid = append(valid, types.GCAttachment{ContainerID: container, IfName: ifname})
	}
	return valid
}

func fail(err error) {
	var said *types.Error
	if errors.As(err, &said) {
		_ = json.NewEncoder(os.Stderr).Encode(said)
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}
